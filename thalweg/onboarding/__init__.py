"""Surveys and checks a user's own events, and drafts a spec for them."""
