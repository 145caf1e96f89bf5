"""Portuguese prompts. Only data. Pure."""

from edged.tasks.languages.record import LanguagePrompts

PORTUGUESE = LanguagePrompts(
    language="pt",
    names={"positive": "positivo", "negative": "negativo", "neutral": "neutro"},
    said={"positive": ("bom", "positivo"), "negative": ("ruim", "negativo")},
    case="Comentário: {text}\nSentimento: {label}\n\n",
    negative=(
        "Meu melhor amigo foi embora e estou muito triste.",
        "O trem atrasou de novo e perdi a reunião.",
        "Quebrou depois de uma semana e ninguém respondeu aos meus e-mails.",
        "O enredo não faz sentido e ninguém se importa.",
    ),
    positive=(
        "Passei na prova, estou tão feliz!",
        "Uma história emocionante com uma atriz magnífica.",
        "A bateria dura dias e a tela é linda.",
        "Chegou antes do prazo e funciona que é uma maravilha.",
    ),
    neutral_texts=(
        "",
        "N/D",
        "O aparelho está em cima da mesa.",
        "Foi entregue na terça-feira.",
        "O filme dura duas horas.",
        "As partes boas e as ruins se equilibram.",
        "A reunião começa às nove.",
        "Vou de ônibus para o trabalho.",
        "O relatório tem doze páginas.",
        "Que horas são?",
        "A caixa contém um cabo e um manual.",
        "Ele mora numa cidade pequena perto do rio.",
        "O preço é o mesmo do ano passado.",
        "Acabei de chegar em casa.",
        "Há uma loja ao lado da estação.",
        "Ele perguntou se o trem já tinha saído.",
    ),
    reply="Você é um assistente caloroso e empático. Você entende como o usuário se sente e responde em português, com "
    "gentileza e sinceridade, de forma breve, em duas ou três frases.",
)
