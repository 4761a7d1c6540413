"""Names for `bundled:mvp`: some that are well known, and as many as one likes that are made up.

A model that verbalises data must copy names rather than know them. The training data therefore mix the
listed names, which a reader is likely to type, with names put together at random: from common parts (a
first and a family name, a title's words), or from syllables and single letters, accents included, which
nobody could memorise. `UNSEEN` lists real names that no training example contains as a whole; they measure
how well copying carries over to what a reader brings along.

A kind (person, film, city, …) says which relations a name may stand in; "value" names are nouns and numbers
that only end a relation."""

from __future__ import annotations

import random


def _names(text: str) -> list[str]:
    return text.split("|")


def _words(text: str) -> list[str]:
    return text.split()


KNOWN: dict[str, list[str]] = {
    "person": _names(
        "Stan Lee|Marie Curie|Pierre Curie|Ada Lovelace|Alan Turing|Grace Hopper|Albert Einstein|"
        "Isaac Newton|Charles Darwin|Jane Austen|Charles Dickens|Leo Tolstoy|Anton Chekhov|Franz Kafka|"
        "Thomas Mann|Virginia Woolf|Mary Shelley|Agatha Christie|Ernest Hemingway|Toni Morrison|"
        "Gabriel García Márquez|Jorge Luis Borges|Haruki Murakami|Orhan Pamuk|Victor Hugo|Jules Verne|"
        "Simone de Beauvoir|Albert Camus|Umberto Eco|Italo Calvino|Astrid Lindgren|"
        "Hans Christian Andersen|Ludwig van Beethoven|Johann Sebastian Bach|Clara Schumann|"
        "Frédéric Chopin|Antonín Dvořák|Béla Bartók|Igor Stravinsky|Vincent van Gogh|Claude Monet|"
        "Frida Kahlo|Pablo Picasso|Georgia O'Keeffe|Edvard Munch|Gustav Klimt|Paul Klee|Hokusai|"
        "Alfred Hitchcock|Akira Kurosawa|Agnès Varda|Federico Fellini|Ingmar Bergman|Steven Spielberg|"
        "Hayao Miyazaki|Charlie Chaplin|Greta Garbo|Audrey Hepburn|Humphrey Bogart|Ingrid Bergman|"
        "Meryl Streep|Tom Hanks|Robert Downey|Steve Jobs|Bill Gates|Henry Ford|Coco Chanel|Walt Disney|"
        "Jack Kirby|Bob Kane|Serena Williams|Roger Federer|Lionel Messi|Megan Rapinoe|Nelson Mandela|"
        "Rosa Parks|Angela Merkel|Barack Obama|Abraham Lincoln|Nina Simone|David Bowie|Joni Mitchell|"
        "Miles Davis|Billie Holiday|Aretha Franklin|Björk|Prince|Plato|Confucius|Hypatia|Emmy Noether|"
        "Sofia Kovalevskaya"
    ),
    "character": _names(
        "Iron Man|Batman|Wonder Woman|Spider-Man|Captain Marvel|Black Panther|Superman|Harry Potter|"
        "Hermione Granger|Frodo Baggins|Gandalf|Sherlock Holmes|Hercule Poirot|Miss Marple|Don Quixote|"
        "Robin Hood|Peter Pan|Pippi Longstocking|Pinocchio|Dracula|Frankenstein|Mickey Mouse|Donald Duck|"
        "Lara Croft|Homer Simpson|Asterix|Tintin|Zorro|James Bond|Luke Skywalker"
    ),
    "film": _names(
        "Casablanca|Vertigo|Psycho|The Birds|Seven Samurai|Spirited Away|Jaws|Jurassic Park|Modern Times|"
        "City Lights|The Gold Rush|Citizen Kane|Metropolis|Blade Runner|Alien|The Matrix|Inception|"
        "Titanic|Toy Story|Finding Nemo|The Lion King|Fantasia|Roman Holiday|Taxi Driver|Goodfellas|"
        "Fargo|The Big Lebowski|Pulp Fiction|Amélie|Das Boot|Run Lola Run|Parasite|Oldboy|"
        "Who Framed Roger Rabbit|What Dreams May Come|What Women Want|Who Killed Captain Alex?|"
        "What's Up, Doc?"
    ),
    "book": _names(
        "Pride and Prejudice|Emma|Great Expectations|Oliver Twist|War and Peace|Anna Karenina|The Trial|"
        "The Metamorphosis|The Magic Mountain|To the Lighthouse|Orlando|Beloved|Ulysses|Moby Dick|"
        "The Old Man and the Sea|One Hundred Years of Solitude|Norwegian Wood|Snow|The Name of the Rose|"
        "Invisible Cities|Les Misérables|Around the World in Eighty Days|The Stranger|Don Juan|Faust|"
        "The Odyssey|The Hobbit|Dune|Foundation|Neuromancer|Brave New World|Animal Farm|"
        "The Little Prince|Who Goes There?|What Katy Did|What Maisie Knew|"
        "Do Androids Dream of Electric Sheep?"
    ),
    "song": _names(
        "Imagine|Yesterday|Let It Be|Heroes|Space Oddity|Respect|Purple Rain|Hallelujah|Feeling Good|"
        "Blue in Green|So What|Strange Fruit|A Case of You|Both Sides Now|Bohemian Rhapsody|"
        "Like a Rolling Stone|What a Wonderful World|What's Going On|Who Are You|Who Knows|Clair de Lune|"
        "Für Elise|The Planets|Bolero"
    ),
    "painting": _names(
        "Mona Lisa|The Starry Night|Sunflowers|Water Lilies|Guernica|The Scream|The Kiss|The Night Watch|"
        "Las Meninas|Girl with a Pearl Earring|The Great Wave|The Two Fridas|American Gothic|Nighthawks|"
        "The Birth of Venus"
    ),
    "company": _names(
        "Apple|Microsoft|Google|Siemens|Toyota|Honda|Sony|Nintendo|Samsung|Nokia|Ericsson|Philips|Airbus|"
        "Boeing|Ford|Renault|Fiat|Volvo|Bosch|Bayer|Nestlé|Danone|Lego|Ikea|Adidas|Puma|Nike|Disney|"
        "Warner Bros|Universal Pictures|Penguin Books|Random House|Marvel Comics|Blue Note Records|"
        "Motown|Sub Pop|General Electric|Red Hat|Deutsche Bank|Air France"
    ),
    "city": _names(
        "London|Paris|Berlin|Madrid|Rome|Vienna|Prague|Warsaw|Budapest|Athens|Lisbon|Dublin|Oslo|"
        "Stockholm|Copenhagen|Helsinki|Moscow|Istanbul|Ankara|Cairo|Lagos|Nairobi|Cape Town|Delhi|Mumbai|"
        "Tokyo|Kyoto|Osaka|Seoul|Beijing|Shanghai|Bangkok|Hanoi|Sydney|Melbourne|Auckland|Toronto|"
        "Montreal|Vancouver|New York|Chicago|Boston|Seattle|San Francisco|Los Angeles|Mexico City|Havana|"
        "Bogotá|Lima|Santiago|Buenos Aires|São Paulo|Zürich|Geneva|Munich|Hamburg|Milan|Naples|Barcelona|"
        "Porto"
    ),
    "country": _names(
        "Germany|France|Spain|Italy|Portugal|Austria|Switzerland|Poland|Hungary|Greece|Ireland|Norway|"
        "Sweden|Denmark|Finland|Iceland|Russia|Ukraine|Turkey|Egypt|Nigeria|Kenya|South Africa|India|"
        "Japan|South Korea|China|Thailand|Vietnam|Indonesia|Australia|New Zealand|Canada|Mexico|Cuba|"
        "Colombia|Peru|Chile|Argentina|Brazil"
    ),
    "university": _names(
        "Harvard University|Stanford University|Princeton University|Yale University|Oxford University|"
        "Cambridge University|Heidelberg University|Leiden University|Uppsala University|"
        "Kyoto University|Peking University|McGill University|Bologna University|Charles University|"
        "Jagiellonian University"
    ),
    "band": _names(
        "The Beatles|The Rolling Stones|Queen|Pink Floyd|Led Zeppelin|Radiohead|Nirvana|Kraftwerk|"
        "Daft Punk|Abba|The Supremes|The Who|The Guess Who|Fleetwood Mac|The Velvet Underground|"
        "Portishead|Massive Attack|Sigur Rós"
    ),
    "team": _names(
        "Real Madrid|Barcelona FC|Bayern Munich|Arsenal|Liverpool FC|Juventus|Ajax|Benfica|Boca Juniors|"
        "Santos|Chicago Bulls|Boston Celtics|New York Yankees|Toronto Maple Leafs"
    ),
}

UNSEEN: dict[str, list[str]] = {
    "person": _names(
        "Katherine Johnson|Srinivasa Ramanujan|Rosalind Franklin|Niels Bohr|Chimamanda Adichie|"
        "Zadie Smith|Kazuo Ishiguro|Wim Wenders|Sofia Coppola|Artemisia Gentileschi|"
        "Caspar David Friedrich|Philip Glass|Hildegard Knef|Usain Bolt|Simone Biles|Nadia Boulanger"
    ),
    "character": _names("Paddington Bear|Sancho Panza|Katniss Everdeen|Tom Sawyer|Nancy Drew|Obelix"),
    "film": _names(
        "Rear Window|Paris, Texas|Wings of Desire|Lost in Translation|Rashomon|Chinatown|Groundhog Day"
    ),
    "book": _names(
        "Middlemarch|White Teeth|The Remains of the Day|Crime and Punishment|Half of a Yellow Sun|Momo"
    ),
    "song": _names("Blue Moon|Wuthering Heights|Autumn Leaves|Hey Jude|Dancing Queen"),
    "painting": _names("The Hay Wain|Olympia|The Milkmaid|Whaam"),
    "company": _names(
        "Patagonia|Spotify|Rolls Royce|Zeiss|Faber and Faber|Deutsche Grammophon|Mitsubishi Electric"
    ),
    "city": _names(
        "Kraków|Leipzig|Valparaíso|Edinburgh|Reykjavik|Nagasaki|Samarkand|Kuala Lumpur|Quito|Nashville|Ghent"
    ),
    "country": _names("Estonia|Mongolia|Uruguay|Madagascar|Sri Lanka|Costa Rica|Belgium|Morocco"),
    "university": _names("Tübingen University|Nalanda University|Howard University|Coimbra University"),
    "band": _names("The Cure|Arcade Fire|Talking Heads|Buena Vista Social Club|Rammstein"),
    "team": _names("Celtic Glasgow|Werder Bremen|Golden State Warriors|River Plate"),
}

# Nouns that end a relation. Written in lower case in the sentence, with or without a capital in the data.
CLASSES: dict[str, list[str]] = {
    "occupation": _names(
        "writer|painter|composer|actor|director|scientist|engineer|architect|athlete|singer|politician|"
        "philosopher|inventor|designer|astronaut|economist|poet|teacher|chemist|explorer"
    ),
    "character type": _names(
        "superhero|detective|wizard|villain|hobbit|pirate|vampire|secret agent|android|orphan"
    ),
    "work type": _names("masterpiece|classic|cult classic|debut|bestseller|comedy|tragedy|adaptation|epic"),
    "company type": _names(
        "publisher|carmaker|record label|software company|airline|bank|startup|family business"
    ),
    "place type": _names(
        "port|metropolis|university town|republic|kingdom|island|industrial centre|holiday destination"
    ),
    "genre": _names(
        "drama|science fiction|jazz|romance|satire|horror|fantasy|opera|folk|thriller|crime fiction|"
        "magical realism"
    ),
    "instrument": _names("piano|violin|guitar|cello|trumpet|saxophone|organ|drums|accordion|harp"),
}

_FIRST = _words(
    "Anna Maria Laura Sofia Elena Clara Nora Ida Emma Julia Lena Eva Olga Irina Fatima Leila Aisha Mei "
    "Yuki Priya Ana Lucia Carmen Ingrid Astrid Sigrid Zoë Chloé Inés Peter Paul John James Thomas Martin "
    "Jonas Lukas Felix Oscar Hugo Victor Ivan Dmitri Omar Ali Hassan Kenji Hiroshi Wei Raj Arjun Carlos "
    "Diego Luis Marco Matteo Erik Lars Sven Niels Kofi Kwame Tunde José André Jürgen Søren Łukasz Tom "
    "Max Ben Sam Kate Jane Alice Ruth Helen Grace Rose Violet"
)
_FAMILY = _words(
    "Smith Jones Brown Taylor Miller Wilson Moore Clark Lewis Walker Hall Young King Wright Hill Green "
    "Baker Carter Turner Cooper Reed Bell Ward Wood Müller Schmidt Weber Fischer Becker Hoffmann Koch "
    "Richter Dubois Moreau Laurent Lefèvre Garcia Lopez Martinez Fernández Torres Ruiz Silva Santos "
    "Costa Rossi Ferrari Romano Greco Novak Kowalski Horváth Ivanov Petrov Volkov Hansen Larsen Nielsen "
    "Berg Lindqvist Virtanen Yılmaz Demir Haddad Khan Patel Singh Sharma Tanaka Suzuki Watanabe Kim Park "
    "Chen Wang Nguyen Okafor Mensah Diallo O'Brien MacLeod van Dijk de Vries"
)
_NOUNS = _words(
    "River Winter Garden Night House Window Stone Forest Mirror Letter Road Island Summer Ocean Fire "
    "Shadow Bridge Lantern Star Morning Clock Tower Train Harbour Rain Bird Wolf Rose Door Song Sleep "
    "Dream Glass Paper Silver Machine City Mountain Moon"
)
_ADJECTIVES = _words(
    "Last Blue Silent Broken Golden Long Hidden White Red Lost Empty Bright Little Old Second Distant Wild"
)
_ONSETS = _words("b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w x y z")
_VOWELS = _words("a e i o u a e i o u ai ea ou ie ö é á ü í ó å ø ı ê")
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "ck", "nd", "rg", "ß", "ň", "x", "ng"]
_ENDINGS = {
    "company": [
        "Systems",
        "Labs",
        "Motors",
        "Group",
        "Press",
        "Records",
        "Foods",
        "and Sons",
        "Pictures",
        "Air",
    ],
    "city": ["", "", "", "", "burg", "ville", "ton", "stad", " Falls", " Bay", "grad", "polis"],
    "country": ["", "ia", "land", "stan"],
    "university": ["University"],
    "team": ["United", "Rovers", "FC", "Tigers", "Athletic", "City"],
}


def invented_name(kind: str, rng: random.Random) -> str:
    """A name nobody bears, in the manner of its kind: half of the names are common words put together, half
    are syllables.
    """
    plain = rng.random() < 0.5
    if kind == "person":
        if not plain:
            return " ".join(_syllables(rng) for _ in range(rng.choice((1, 2, 2, 2, 3))))
        middle = [rng.choice(_FIRST)] if rng.random() < 0.15 else []
        return " ".join([rng.choice(_FIRST), *middle, rng.choice(_FAMILY)])
    if kind == "character":
        return rng.choice(("Captain ", "Miss ", "Doctor ", "", "")) + (
            rng.choice(_FIRST) if plain else _syllables(rng)
        )
    if kind == "band":
        return (f"The {rng.choice(_NOUNS)}s" if plain else f"{_syllables(rng)} {rng.choice(_NOUNS)}").strip()
    if kind in _ENDINGS:
        stem = rng.choice(_FAMILY if kind == "company" else _NOUNS) if plain else _syllables(rng)
        joint = "" if kind in ("city", "country") else " "
        return stem + joint + rng.choice(_ENDINGS[kind])
    return _title(rng, rng.choice(_NOUNS) if plain else _syllables(rng))


def _title(rng: random.Random, word: str) -> str:
    """A film's, book's, song's or painting's title around `word`."""
    other, adjective = rng.choice(_NOUNS), rng.choice(_ADJECTIVES)
    shapes = (
        f"The {adjective} {word}",
        f"{word} of the {other}",
        f"The {other} of {word}",
        f"{word} and {other}",
        f"{adjective} {word}",
        f"A {other} in {word}",
        f"{word}",
        f"Who Is {word}?",
        f"What the {word} Said",
    )
    return rng.choice(shapes)


def _syllables(rng: random.Random) -> str:
    count = rng.choice((1, 2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))
    return word.capitalize()
