"""Pictures of networks and images."""
