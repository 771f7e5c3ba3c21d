"""What only models of TensorFlow need: compiled functions, copies of Keras models, and the export for runners."""
