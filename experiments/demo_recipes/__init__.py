"""How the four shipped encoders and the text trunk were trained: one module each, on scenes no task uses."""
