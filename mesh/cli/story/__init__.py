"""The story of `isthmus demo`: a stage, its steps, and the order in which they play."""
