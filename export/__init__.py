"""Training, ONNX export and verification of the models that the service runs."""
