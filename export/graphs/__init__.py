"""ONNX graphs written directly with ONNX Runtime's fused operators, from a PyTorch state dict.

weights_file.py  the external data that all graphs of one precision share
builder.py       nodes, constants and weights become a model
products.py      how a weight matrix is multiplied: float32, or int8 in one of three ways
half.py          the same in float16, for GPUs
layers.py        attention, feed-forward and residual blocks
positions.py     sinusoids and learned positions
translation.py   encoder and decoder step
vision.py        classifier
"""
