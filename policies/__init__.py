"""The shipped policies and their JSON schema."""
