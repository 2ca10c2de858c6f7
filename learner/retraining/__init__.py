"""A new model from the live one: what it carries over, how it is trained, judged and promoted."""
