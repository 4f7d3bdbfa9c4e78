"""Settings of the commands: groups of frozen fields, each field a flag. No TensorFlow."""
