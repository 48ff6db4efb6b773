"""What a sweep will run and cost, before it starts."""
