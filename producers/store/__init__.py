"""A simulated app store whose truth is known: users, apps, requests for pages, and the installs that follow."""
