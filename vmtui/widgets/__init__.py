"""The widgets: each draws what it is given, and asks by posting a message."""
