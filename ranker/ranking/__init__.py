"""From a request to its reply: candidates, scores, entities, the version that is live."""
