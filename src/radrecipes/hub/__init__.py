"""Releases on the Hugging Face Hub: published in one commit under a tag, pulled and verified."""
