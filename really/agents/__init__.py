"""The learner's model in TensorFlow: the Agent, its compiled functions, and its export for the runners."""
