"""The learner's model: the Agent, its compiled functions, and its export for runners."""
