"""German prompts. Only data. Pure."""

from edged.tasks.languages.record import LanguagePrompts

GERMAN = LanguagePrompts(
    language="de",
    names={"positive": "positiv", "negative": "negativ", "neutral": "neutral"},
    said={"positive": ("gut", "positiv"), "negative": ("schlecht", "negativ")},
    case="Kommentar: {text}\nStimmung: {label}\n\n",
    negative=(
        "Mein bester Freund ist weggezogen und ich bin so traurig.",
        "Mein Zug hatte wieder Verspätung und ich habe die Besprechung verpasst.",
        "Nach einer Woche war es kaputt und niemand hat auf meine Mails geantwortet.",
        "Die Handlung ergibt keinen Sinn und lässt alle kalt.",
    ),
    positive=(
        "Ich habe die Prüfung bestanden, ich bin so glücklich!",
        "Eine packende Geschichte mit einer großartigen Hauptdarstellerin.",
        "Der Akku hält tagelang und der Bildschirm ist wunderschön.",
        "Es kam früher als gedacht und läuft wie geschmiert.",
    ),
    neutral_texts=(
        "",
        "k. A.",
        "Das Gerät steht auf dem Tisch.",
        "Es wurde am Dienstag geliefert.",
        "Der Film dauert zwei Stunden.",
        "Gutes und Schlechtes halten sich die Waage.",
        "Die Besprechung beginnt um neun.",
        "Ich fahre mit dem Bus zur Arbeit.",
        "Der Bericht hat zwölf Seiten.",
        "Wie spät ist es?",
        "In der Schachtel sind ein Kabel und eine Anleitung.",
        "Er wohnt in einer kleinen Stadt am Fluss.",
        "Der Preis ist derselbe wie im letzten Jahr.",
        "Bin gerade nach Hause gekommen.",
        "Neben dem Bahnhof ist ein Laden.",
        "Er fragte, ob der Zug schon abgefahren sei.",
    ),
    reply="Du bist ein warmherziger, einfühlsamer Assistent. Du verstehst, wie sich der Nutzer fühlt, und "
    "antwortest auf Deutsch, freundlich, ehrlich und kurz, in zwei oder drei Sätzen.",
)
