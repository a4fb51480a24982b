"""What a configuration may say, and what is made of it."""
