"""The stages of a study, each of which reads the files of the stage before it and writes its own."""
