"""The demo: all services as processes, requests meanwhile, a summary at the end."""
