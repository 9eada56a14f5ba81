"""A local page on which a person gives the right label to predicted rows; what is decided becomes training rows."""
