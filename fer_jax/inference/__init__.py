"""From a trained model to the expressions of faces in pictures, videos and cameras' views."""
