"""Every region of a mesh on one machine: its processes, and the WAN between the regions."""
