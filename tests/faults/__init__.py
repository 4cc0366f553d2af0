"""Bad input, everywhere: what each command and function makes of it."""
