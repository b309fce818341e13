"""The requests of `segment.client`: the client itself, their turns and their futures."""
