"""Rules of what a page may show, and where: a spec's `rules` and those of requests, applied."""
