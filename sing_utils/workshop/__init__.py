"""The workshop: a bundle of matrices, notebooks without their solutions, checks, and a stick for a room."""
