"""Users, groups, services, tokens, OAuth and servers, as the hub's handlers make and ask them."""

import os

from jupyterhub import orm, roles
from jupyterhub.utils import new_token

db = orm.new_session_factory(os.environ["DATABASE_URL"])()
for role in roles.get_default_roles():
    roles.create_role(db, role)
roles.create_role(db, {"name": "reader", "description": "reads", "scopes": ["read:users"]})

user, group, service = orm.User(name="ada"), orm.Group(name="staff"), orm.Service(name="cull")
db.add_all([user, group, service])
group.users.append(user)
db.commit()
for entity in (user, service):
    roles.assign_default_roles(db, entity)
roles.grant_role(db, user, "reader")
roles.strip_role(db, user, "reader")

client = orm.OAuthClient(identifier="jupyterhub", secret="", redirect_uri="", description="hub")
db.add(client)
db.commit()
token = user.new_api_token(note="mine", expires_in=60)
service.new_api_token(token=new_token())
found = orm.APIToken.find(db, token)
found.last_activity = orm.APIToken.now()
code = orm.OAuthCode(client=client, code="c", expires_at=0, redirect_uri="", session_id="s", user=user)
db.add(code)
server = orm.Server(proto="http", ip="10.0.0.1", port=8888, base_url="/")
spawner = orm.Spawner(name="", user=user, server=server, state={"pid": 1})
db.add_all([server, spawner])
db.commit()
print([scope for role in found.user.roles for scope in role.scopes], user.orm_spawners)
print(db.query(orm.User).filter(orm.User.groups.any(name="staff")).order_by(orm.User.id).limit(10).all())
orm.APIToken.purge_expired(db)
orm.OAuthCode.purge_expired(db)
db.delete(spawner)
db.delete(client)
db.delete(user)
db.commit()
