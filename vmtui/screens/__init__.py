"""The screens: each shows one side of the fleet, and knows values only, never the engine."""
