"""Who is a member of what, in both directions: a platform's audiences are kept as Klaviyo lists,
Klaviyo's segments as the platform's tags.

`rounds` reads a group in full, again and again; `keeper` decides what follows for its target and
asks a person where too much would; `teller` tells a platform; `greeter` orders what is done for
those who join a segment.
"""
