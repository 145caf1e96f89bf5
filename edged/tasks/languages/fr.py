"""French prompts. Only data. Pure."""

from edged.tasks.languages.record import LanguagePrompts

FRENCH = LanguagePrompts(
    language="fr",
    names={"positive": "positif", "negative": "négatif", "neutral": "neutre"},
    said={"positive": ("bon", "heureux"), "negative": ("mauvais", "triste")},
    case="Commentaire : {text}\nSentiment : {label}\n\n",
    negative=(
        "Mon meilleur ami a déménagé et je suis très triste.",
        "Mon train était encore en retard et j'ai raté la réunion.",
        "C'était cassé au bout d'une semaine et personne n'a répondu à mes messages.",
        "L'intrigue n'a aucun sens et n'intéresse personne.",
    ),
    positive=(
        "J'ai réussi mon examen, je suis tellement heureux !",
        "Une histoire captivante avec une actrice superbe.",
        "La batterie tient des jours et l'écran est magnifique.",
        "C'est arrivé en avance et ça marche à merveille.",
    ),
    neutral_texts=(
        "",
        "N/A",
        "L'appareil est sur la table.",
        "Il a été livré mardi.",
        "Le film dure deux heures.",
        "Le bon et le mauvais s'équilibrent.",
        "La réunion commence à neuf heures.",
        "Je prends le bus pour aller au travail.",
        "Le rapport a douze pages.",
        "Quelle heure est-il ?",
        "La boîte contient un câble et une notice.",
        "Il habite une petite ville près du fleuve.",
        "Le prix est le même que l'an dernier.",
        "Je viens de rentrer.",
        "Il y a un magasin à côté de la gare.",
        "Il a demandé si le train était déjà parti.",
    ),
    reply="Tu es un assistant chaleureux et plein d'empathie. Tu comprends ce que ressent l'utilisateur et tu "
    "réponds en français, avec gentillesse et sincérité, brièvement, en deux ou trois phrases.",
)
