"""Scores of predictions that anybody saved: files -> counts -> numbers, without a GPU and without the mm stack."""
