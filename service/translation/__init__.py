"""Translation: from texts to hypotheses, by in-flight batched greedy and beam search."""
