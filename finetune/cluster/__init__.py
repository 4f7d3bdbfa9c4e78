"""Several processes that train in step: which they are, and what they tell each other. No TensorFlow."""
