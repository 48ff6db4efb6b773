"""The training of one trial, free of Ray and MLflow."""
