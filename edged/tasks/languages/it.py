"""Italian prompts. Only data. Pure."""

from edged.tasks.languages.record import LanguagePrompts

ITALIAN = LanguagePrompts(
    language="it",
    names={"positive": "positivo", "negative": "negativo", "neutral": "neutro"},
    said={"positive": ("felice", "positivo"), "negative": ("triste", "negativo")},
    shown={"positive": "buono", "negative": "cattivo"},
    case="Commento: {text}\nSentimento: {label}\n\n",
    negative=(
        "Il mio migliore amico si è trasferito e sono molto triste.",
        "Il treno era di nuovo in ritardo e ho perso la riunione.",
        "Si è rotto dopo una settimana e nessuno ha risposto alle mie mail.",
        "La trama non ha senso e non interessa a nessuno.",
    ),
    positive=(
        "Ho superato l'esame, sono felicissimo!",
        "Una storia avvincente con un'attrice magnifica.",
        "La batteria dura giorni e lo schermo è bellissimo.",
        "È arrivato in anticipo e funziona a meraviglia.",
    ),
    neutral_texts=(
        "",
        "n.d.",
        "L'apparecchio è sul tavolo.",
        "È stato consegnato martedì.",
        "Il film dura due ore.",
        "Pregi e difetti si equivalgono.",
        "La riunione comincia alle nove.",
        "Vado al lavoro in autobus.",
        "Il rapporto ha dodici pagine.",
        "Che ore sono?",
        "La scatola contiene un cavo e un manuale.",
        "Abita in una piccola città vicino al fiume.",
        "Il prezzo è lo stesso dell'anno scorso.",
        "Sono appena tornato a casa.",
        "C'è un negozio accanto alla stazione.",
        "Ha chiesto se il treno era già partito.",
    ),
    reply="Sei un assistente caloroso ed empatico. Capisci come si sente l'utente e rispondi in italiano, con "
    "gentilezza e sincerità, in modo breve, in due o tre frasi.",
)
