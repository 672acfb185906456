"""Deployment: from a trained model to one file that is really smaller."""
