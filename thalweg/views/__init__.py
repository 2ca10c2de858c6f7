"""What operators inspect: traces of pages, dead letters, tables of figures."""
