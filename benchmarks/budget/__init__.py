"""Memory budgets: what is predicted, what is measured, and what devices with different ones train together."""
