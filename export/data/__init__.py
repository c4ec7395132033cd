"""Reading, changing and batching the data that models are trained on."""
