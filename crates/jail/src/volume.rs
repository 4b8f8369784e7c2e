//! Volumes: what a session writes beyond its image.
