"""Spanish prompts. Only data. Pure."""

from edged.tasks.languages.record import LanguagePrompts

SPANISH = LanguagePrompts(
    language="es",
    names={"positive": "positivo", "negative": "negativo", "neutral": "neutral"},
    said={"positive": ("bueno", "positivo"), "negative": ("malo", "negativo")},
    case="Comentario: {text}\nSentimiento: {label}\n\n",
    negative=(
        "Mi mejor amigo se ha ido a vivir lejos y estoy muy triste.",
        "El tren ha vuelto a llegar tarde y me he perdido la reunión.",
        "Se rompió a la semana y nadie respondió a mis correos.",
        "El argumento no tiene sentido y a nadie le importa.",
    ),
    positive=(
        "¡He aprobado el examen, estoy muy feliz!",
        "Una historia apasionante con una actriz magnífica.",
        "La batería dura varios días y la pantalla es preciosa.",
        "Llegó antes de lo previsto y funciona de maravilla.",
    ),
    neutral_texts=(
        "",
        "N/D",
        "El aparato está encima de la mesa.",
        "Lo entregaron el martes.",
        "La película dura dos horas.",
        "Lo bueno y lo malo se compensan.",
        "La reunión empieza a las nueve.",
        "Voy en autobús al trabajo.",
        "El informe tiene doce páginas.",
        "¿Qué hora es?",
        "La caja contiene un cable y un manual.",
        "Vive en un pueblo cerca del río.",
        "El precio es el mismo que el año pasado.",
        "Acabo de llegar a casa.",
        "Hay una tienda al lado de la estación.",
        "Preguntó si el tren ya había salido.",
    ),
    reply="Eres un asistente cálido y empático. Entiendes cómo se siente el usuario y respondes en español, con "
    "amabilidad, sinceridad y brevedad, en dos o tres frases.",
)
