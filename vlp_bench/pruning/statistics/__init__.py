"""What the calibration data say about a model: input norms, gradients, and the passes that collect them."""
