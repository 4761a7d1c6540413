"""The families, one file each: config, parts list, key map, public classes.

base        what every public class can do: load, save, initialise, resize, write
seq2seq     the wiring that encoder-decoders share
decoding    a decoder behind the protocol of generation
mvp, mt5    the families
auto        from a config.json to a class
"""
