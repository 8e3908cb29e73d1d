"""A program that is an encoder: it obeys a gateway and runs ffmpeg."""
