"""Whether current orders and answers still resemble those of a reference period."""
