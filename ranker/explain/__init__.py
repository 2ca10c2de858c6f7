"""Why an item is where it is: what a version's parts, columns and weights add to its logit."""
