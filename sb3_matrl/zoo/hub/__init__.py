"""Trained agents on the Hugging Face Hub: the files of a repository, its model card, sending and fetching."""
