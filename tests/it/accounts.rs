//! Accounts through their routes, as each earlier system documented them.

use serde_json::{Value, json};

use crate::{
    harness::it_unstarted,
    visitor::{PASSWORD, Person},
};

#[test]
fn from_sign_up_to_logout_all() {
    it_unstarted(|mut t| async {
        let mail = t.with_mail().await;
        t.set("DCA_PUBLIC_URL", "http://dca.example");
        t.start_without_bot().await;
        let ana = Person::new(&t);
        let made = ana.post("/auth/signup", json!({ "email": "Ana@x.example", "password": PASSWORD, "name": "Ana", "roles": ["ADMIN"], "role": "ADMIN" })).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.body["message"], "User created. Please verify your email.");
        let early = ana.post("/auth/login", json!({ "email": "ana@x.example", "password": PASSWORD })).await;
        assert_eq!((early.status, &early.body["message"]), (403, &json!("Email not verified")));
        let wrong = ana.post("/auth/login", json!({ "email": "ana@x.example", "password": "not this one" })).await;
        assert_eq!((wrong.status, &wrong.body["message"]), (401, &json!("Invalid credentials")));

        let letter = mail.next("Ana@x.example").await;
        assert!(letter.link().starts_with("http://dca.example/verify?token="), "{}", letter.link());
        let proved = ana.post("/auth/verify-email", json!({ "token": letter.token() })).await;
        assert_eq!((proved.status, &proved.body["message"]), (201, &json!("Email verified successfully")));
        let again = ana.post("/auth/verify-email", json!({ "token": letter.token() })).await;
        assert_eq!((again.status, &again.body["message"]), (400, &json!("Invalid or expired token")));
        mail.next("Ana@x.example").await;

        let signed_in = ana.post("/auth/login", json!({ "email": "ana@x.example", "password": PASSWORD })).await;
        assert_eq!(signed_in.status, 200, "{signed_in:?}");
        assert_eq!(signed_in.body["user"]["id_user"], made.body["user_id"]);
        assert_eq!(signed_in.body["user"]["role"], "USER");
        assert_eq!(signed_in.body["refreshToken"], Value::Null, "it is in the cookie");
        let me = ana.get("/me").await;
        assert_eq!((me.status, &me.body["email"]), (200, &json!("Ana@x.example")));
        assert_eq!(ana.get("/auth/check").await.body, json!({ "ok": true }));
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200);
        assert_eq!(ana.get("/auth/sessions").await.body.as_array().unwrap().len(), 1);
        let out = ana.post("/auth/logout-all", Value::Null).await;
        assert_eq!((out.status, &out.body["message"]), (200, &json!("All sessions revoked")));
        assert_eq!(ana.get("/me").await.status, 401);
        mail.finish();
        t
    });
}
