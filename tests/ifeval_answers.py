"""Answers by hand to the sample of ifeval_et, in its order: each follows all instructions of its row."""

_READING = "Raamatud avavad lapsele uksi maailma, mida ta muidu ei näeks, ja õpetavad teda teisi mõistma."

ANSWERS = [
    "Esimesel päeval kõndisime mööda laudtee serva, teisel ja kolmandal päeval seiklesime rabades.",
    "Tere! Sinu lemmikloom haugub pärast südaööd nii valjult, et ma ei saa magada. Palun võta ta tuppa. Mari",
    "Maitse uut šokolaadi! Nii head šokolaadi pole sa veel söönud.",
    "Kuu tõmbab vett enda poole. Nii tõuseb meri rannas õhtul kõrgele ja tõus võtab kogu liiva, mõõn aga võtab vee "
    "tagasi: sõbrad, õpetajad ja lõbusad õed näevad rõõmsalt sõudjaid.",
    "Tere tulemast! Nii tore! Kõik on kohal! Aeg lendas! Tantsime!",
    "Ärkasin kell seitse, jõin kohvi ja kõndisin mööda [tänav] tööle.",
    "Tarton yliopisto perustettiin vuonna 1632, ja se on maan vanhin yliopisto. Siellä opiskelee nykyään tuhansia "
    "opiskelijoita eri maista.",
    "Rukkileib on tume. Sai on hele. Rukkileib tehakse juuretisega. Sai kerkib pärmiga. Rukkileivas on rohkem "
    "kiudaineid. Saias on neid vähem. Rukkileib püsib kaua värske. Sai kuivab ruttu.",
    "24. veebruaril 1918. a kuulutati Tallinnas välja Eesti Vabariik. Päev varem loeti iseseisvusmanifest ette Pärnus.",
    "Tere, Jaan!\n***\nKuidas sul Võrus läheb?\n***\nMeil sadas eile lund.\n***\nTervitades Mari",
    " ".join([_READING] * 20),
    "Mets on kuldne ja vaikne.\n\nJõhvikad punetavad soo ääres.\n\nÕhtul tõuseb udu.",
    "[üürileandja nimi] ja [üürniku nimi] sõlmivad lepingu: [koht], [pindala], [üür], [tagatis], [algus] ja [lõpp].",
    "Kallis õpetaja, aitäh kõige eest!\n\nP.S. Tulen sügisel külla.",
    "Tere! Tuba oli väga lärmakas ja ma ei maganud üldse.\n\nP.S. Voodi oli hea.\nP.P.S. Hommikusöök oli maitsev.",
    "Põhjused:\n* See on tervislik.\n* See on odav.\n* See on kiire.\n* See on vaikne.\n* See on lõbus.",
    "Minu vastus on jah.",
    "Suurimad on *Saaremaa*, *Hiiumaa*, *Muhu* ja *Vormsi*.",
    "OSA 1\nVali tasane koht ja laota põhi maha.\nOSA 2\nPane vardad kokku ja kinnita nöörid.",
    '[{"nimi": "Võhandu", "km": 162}, {"nimi": "Põltsamaa", "km": 135}, {"nimi": "Pedja", "km": 122}]',
    "<<Jääaja laul>>\nJää kattis maa ja vaikus suur\njäi lume alla magama.",
    "Majakavahi Tass\n******\nTuletorni Tuba",
    "Kirjuta haiku esimesest lumest.\n\nHommik on valge\naknal sulab helbeke\nlaps jookseb õue",
    "Uuri ettevõtet, harjuta vastuseid ja mine õigel ajal kohale. Kas saan veel kuidagi aidata?",
    "„Kes teisele halba soovib, saab sageli ise kahju.“",
    "EL JA NATO KAITSEVAD LÄÄNEMERE KAABLEID, teatas minister.",
    "Jaanipäeval tehakse lõket, lauldakse ja tantsitakse. " * 12,
    "LAULUPIDU TOIMUB TÄNAVU JUULIS TALLINNA LAULUVÄLJAKUL. KÕIK ON OODATUD!",
    "õhtul on järv vaikne ja peegelsile. kalur sõuab aeglaselt kalda poole ning pardid otsivad magamiskohta.",
    "the old town of tallinn is one of the best preserved medieval towns in northern europe.",
    "„Õhk hajutab sinist valgust rohkem kui punast ja sellepärast paistab taevas meile sinine.“",
    "<<Meie nädal>>\nSee on *lihtne* ja *odav* kava.\n"
    "* E: supp\n* T: puder\n* K: kala\n* N: salat\n* R: pasta\n* L: sült\n* P: pirukas",
]
