"""Numerics under the models: matrix products, packed attention, chunked log-probs."""
