"""The roof: command line, local stack, demo. The only package that sees every room."""
