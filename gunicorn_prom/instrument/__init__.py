"""What is measured in a worker, and where it is tapped."""
