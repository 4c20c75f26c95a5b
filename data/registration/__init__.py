"""Registration of a support scan to a query scan with SimpleITK."""

# Increment it with every change that affects results; cached registrations are then computed again.
ALGORITHM_VERSION = 2
